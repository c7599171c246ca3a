// Label an image with the network of this folder, through ONNX Runtime's C API alone.
//
//   g++ -std=c++17 -O2 predict.cpp -I "$ORT/include" "$ORT"/lib/libonnxruntime.so* -Wl,-rpath,"$ORT/lib" -o predict
//   ./predict model.onnx image.ppm labels.pgm
//
// ORT is the folder of an unpacked release of ONNX Runtime 1.17 or newer. image.ppm is a binary PPM (P6) of 8 bits per
// channel; ImageMagick writes one: magick image.jpg -auto-orient -depth 8 image.ppm. A pixel of labels.pgm is an index into
// the classes of card.json, which also states the sizes that the network takes.
#include <onnxruntime_c_api.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

constexpr uint32_t API_VERSION = 17;  // the oldest that reads model.onnx
constexpr int64_t MIN_SIDE = 64;      // pixels, of a network that takes any size
const OrtApi* api = nullptr;

struct Image {
    int64_t width, height;
    std::vector<uint8_t> pixels;  // (height, width, 3) RGB
};

void check(OrtStatus* status) {
    if (status != nullptr) throw std::runtime_error(api->GetErrorMessage(status));
}

// Read the next number of a PPM header, behind white space and comments.
int64_t read_number(std::istream& file) {
    while ((file >> std::ws) && file.peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    int64_t number = -1;
    file >> number;
    return file ? number : -1;
}

Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " cannot be opened");
    char magic[2] = {0, 0};
    file.read(magic, 2);
    Image image;
    image.width = read_number(file);
    image.height = read_number(file);
    const int64_t largest = read_number(file);
    file.get();  // the white space behind the header
    const bool has_size = image.width > 0 && image.height > 0 && image.width < 65536 && image.height < 65536;
    if (magic[0] != 'P' || magic[1] != '6' || !has_size || largest != 255)
        throw std::runtime_error(path + " is no binary PPM (P6) of 8 bits per channel");
    image.pixels.resize(size_t(image.width * image.height * 3));
    if (!file.read(reinterpret_cast<char*>(image.pixels.data()), std::streamsize(image.pixels.size())))
        throw std::runtime_error(path + " ends before its last pixel");
    return image;
}

// Reject images on which the network would fail or guess: its own height is -1 if it takes any size.
void check_size(OrtSession* session, const Image& image) {
    OrtTypeInfo* type = nullptr;
    const OrtTensorTypeAndShapeInfo* shape = nullptr;
    int64_t dims[4] = {0, 0, 0, 0};  // N, H, W, 3
    check(api->SessionGetInputTypeInfo(session, 0, &type));
    check(api->CastTypeInfoToTensorInfo(type, &shape));
    check(api->GetDimensions(shape, dims, 4));
    api->ReleaseTypeInfo(type);
    auto size = [](int64_t height, int64_t width) { return std::to_string(height) + "x" + std::to_string(width); };
    const std::string actual = "the image has " + size(image.height, image.width) + " pixels, ";
    if (dims[1] > 0 && (image.height != dims[1] || image.width != dims[2]))
        throw std::runtime_error(actual + "this network takes " + size(dims[1], dims[2]));
    if (dims[1] <= 0 && (image.height < MIN_SIDE || image.width < MIN_SIDE))
        throw std::runtime_error(actual + "expected at least " + size(MIN_SIDE, MIN_SIDE));
}

// Run the network and return the class index of each pixel, (height, width).
std::vector<uint8_t> predict(const std::filesystem::path& model, Image& image) {
    OrtEnv* env = nullptr;
    OrtSessionOptions* options = nullptr;
    OrtSession* session = nullptr;
    OrtMemoryInfo* memory = nullptr;
    OrtValue *input = nullptr, *output = nullptr;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "predict", &env));
    check(api->CreateSessionOptions(&options));
    check(api->CreateSession(env, model.c_str(), options, &session));
    check_size(session, image);
    const int64_t dims[4] = {1, image.height, image.width, 3};
    const char *input_name = "image", *output_name = "labels";
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(api->CreateTensorWithDataAsOrtValue(memory, image.pixels.data(), image.pixels.size(), dims, 4,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &input));
    check(api->Run(session, nullptr, &input_name, &input, 1, &output_name, 1, &output));
    uint8_t* labels = nullptr;
    check(api->GetTensorMutableData(output, reinterpret_cast<void**>(&labels)));
    std::vector<uint8_t> result(labels, labels + image.width * image.height);
    api->ReleaseValue(output);
    api->ReleaseValue(input);
    api->ReleaseMemoryInfo(memory);
    api->ReleaseSession(session);
    api->ReleaseSessionOptions(options);
    api->ReleaseEnv(env);
    return result;
}

int main(int count, char** words) try {
    if (count != 4) throw std::runtime_error(std::string("usage: ") + words[0] + " model.onnx image.ppm labels.pgm");
    api = OrtGetApiBase()->GetApi(API_VERSION);
    if (api == nullptr) throw std::runtime_error("this ONNX Runtime is older than 1.17");
    Image image = read_ppm(words[2]);
    const std::vector<uint8_t> labels = predict(words[1], image);
    std::ofstream file(words[3], std::ios::binary);
    file << "P5\n" << image.width << " " << image.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(labels.data()), std::streamsize(labels.size()));
    if (!file.flush()) throw std::runtime_error(std::string(words[3]) + " cannot be written");
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
}
